wit_bindgen::generate!({ path: "../../../client/proto/wit", world: "driver-guest" });
