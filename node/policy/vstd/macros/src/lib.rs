//! Attributes of the verifier Verus that leave what they stand on as it is.
#![warn(missing_docs)]

use proc_macro::TokenStream;

/// Says what a function promises; erased.
#[proc_macro_attribute]
pub fn verus_spec(_promise: TokenStream, item: TokenStream) -> TokenStream {
    item
}

/// Says that something is to be verified; erased.
#[proc_macro_attribute]
pub fn verus_verify(_how: TokenStream, item: TokenStream) -> TokenStream {
    item
}
