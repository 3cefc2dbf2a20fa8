use super::*;

fn sources(toml: &str) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tarn.toml");
    std::fs::write(&path, toml).unwrap();
    (dir, Sources { file: Some(path), ..Sources::default() })
}

fn environment(mut sources: Sources, name: &str, value: &str) -> Sources {
    sources.environment.push((name.into(), value.into()));
    sources
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded.values.iter().find(|value| value.key == key).unwrap().origin.to_string()
}

#[test]
fn nothing_given_is_a_whole_configuration() {
    let loaded = load(&Sources::default()).unwrap();
    assert_eq!(loaded.config.identity.ca_dir, PathBuf::from("/var/lib/tarn/ca"));
    assert_eq!(loaded.values.len(), KEYS.len());
    assert!(KEYS.iter().all(|key| !key.meaning.is_empty()));
}

#[test]
fn flags_win_over_environment_over_file_and_each_value_knows_its_origin() {
    let (_dir, sources) = sources("[raft]\nheartbeat_ms = 50\nsnapshot_entries = 1_000\n[node]\ndata_dir = \"/a\"\nname = 'x'\n");
    let sources = environment(sources, "TARN_RAFT__HEARTBEAT_MS", "60");
    let sources = environment(sources, "TARN_NODE__DATA_DIR", "/b").flag("node.data_dir", "/c", "--data-dir");
    // Not a setting: the client's.
    let sources = environment(sources, "TARN_ADDRESS", "127.0.0.1:1");

    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.raft.heartbeat_ms, 60);
    assert_eq!(loaded.config.raft.snapshot_entries, 1_000);
    assert_eq!(loaded.config.identity.ca_dir, PathBuf::from("/c/ca"));
    assert_eq!(origin(&loaded, "raft.heartbeat_ms"), "TARN_RAFT__HEARTBEAT_MS");
    assert_eq!(origin(&loaded, "node.data_dir"), "--data-dir");
    assert!(origin(&loaded, "node.name").ends_with("tarn.toml:6"));
    assert_eq!(origin(&loaded, "listen.bind"), "default");
}

#[test]
fn all_problems_come_at_once_with_their_places() {
    let (_dir, sources) = sources(
        "[raft]\nheartbet_ms = 1\nelection_min_ms = \"soon\"\n[limits]\nconnections = 1\n[log]\nformat = 'xml'\n[listen]\nnode = 3\nbind = 7610\n",
    );
    let sources = environment(sources, "TARN_EXECUTORS__WASM", "perhaps").flag("nodes.data_dir", "x", "--set");
    let problems: Vec<String> = check(&sources).iter().map(ToString::to_string).collect();
    let has = |parts: &[&str]| {
        assert!(problems.iter().any(|p| parts.iter().all(|part| p.contains(part))), "{parts:?} in {problems:#?}");
    };
    has(&["tarn.toml:2", "did you mean raft.heartbeat_ms?"]);
    has(&["tarn.toml:3", "raft.election_min_ms", "whole number", "a string"]);
    has(&["tarn.toml:5", "limits.connections", "16"]);
    has(&["tarn.toml:7", "log.format", "json"]);
    has(&["tarn.toml:9", "listen.node: unknown key"]);
    has(&["tarn.toml:10", "listen.bind", "an integer"]);
    has(&["TARN_EXECUTORS__WASM", "true or false"]);
    has(&["--set", "nodes.data_dir", "node.data_dir"]);
    assert_eq!(problems.len(), 8, "{problems:#?}");
}

#[test]
fn bad_toml_and_a_missing_file_are_problems() {
    let (dir, broken) = sources("[raft\nheartbeat_ms = 1\n");
    assert!(check(&broken).iter().any(|p| p.to_string().contains("tarn.toml:1")));
    let missing = Sources { file: Some(dir.path().join("none.toml")), ..Sources::default() };
    assert!(check(&missing)[0].message.contains("cannot be read"));
}

#[test]
fn the_source_address_is_an_address_or_nothing() {
    assert_eq!(load(&Sources::default()).unwrap().config.network.source_address.0, None);
    let set = |address: &str| {
        let (dir, sources) = sources(&format!("network.source_address = '{address}'\n"));
        let loaded = load(&sources);
        drop(dir);
        loaded
    };
    let loaded = set("10.0.0.7").unwrap();
    assert_eq!(loaded.config.network.source_address.0, "10.0.0.7".parse().ok());
    assert!(loaded.values.iter().any(|value| value.value == "\"10.0.0.7\""));
    assert_eq!(set("").unwrap().config.network.source_address.0, None);
    let refused = set("10.0.0.7:7610").unwrap_err();
    assert!(refused.to_string().contains("network.source_address"), "{refused}");
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let of = |toml: &str| {
        let (_dir, sources) = sources(toml);
        check(&sources).iter().map(|p| p.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("[raft]\nheartbeat_ms = 400\n"), ["raft.election_min_ms"]);
    assert_eq!(of("[raft]\nelection_max_ms = 450\n"), ["raft.election_max_ms"]);
    assert_eq!(of("[cluster]\nbootstrap = ['self', '2=h:1']\n"), ["cluster.bootstrap"]);
    assert_eq!(of("[cluster]\nbootstrap = ['2=h:1', '2=h:2']\n"), ["cluster.bootstrap"]);
    assert_eq!(of("[node]\nid = 3\n[cluster]\nbootstrap = ['2=h:1']\n"), ["cluster.bootstrap"]);
    assert_eq!(of("[listen]\nadvertise = 'h'\n"), ["listen.advertise"]);
    assert_eq!(of("[log]\nlevel = 'a=b=c'\n"), ["log.level"]);
    assert!(of("[cluster]\nbootstrap = ['self']\n").is_empty());
}

const KEYS_FILE: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

#[test]
fn issuers_are_tables_in_the_file_and_toml_in_a_variable() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("jwks.json");
    std::fs::write(&keys, KEYS_FILE).unwrap();
    let keys = keys.display();
    let (_file, from_file) = sources(&format!(
        "[[auth.jwt]]\nissuer = 'https://a'\naudience = 'tarn'\njwks_file = '{keys}'\nname = 'a'\n\
         [[auth.jwt]]\nissuer = 'https://b'\naudience = 'tarn'\njwks_file = '{keys}'\nname = 'b'\n"
    ));
    let loaded = load(&from_file).unwrap();
    let issuers = &loaded.config.auth.jwt.0;
    assert_eq!(issuers.len(), 2);
    assert_eq!((issuers[1].issuer.as_str(), issuers[1].name.as_str()), ("https://b", "b"));

    // What is shown can be given in a variable.
    let shown = loaded.values.iter().find(|value| value.key == "auth.jwt").unwrap();
    let again = environment(Sources::default(), "TARN_AUTH__JWT", &shown.value);
    assert_eq!(load(&again).unwrap().config.auth.jwt, loaded.config.auth.jwt);
    let none = environment(from_file, "TARN_AUTH__JWT", "");
    assert_eq!(load(&none).unwrap().config.auth.jwt, JwtIssuers::default());
}

#[test]
fn issuers_that_could_be_confused_or_have_no_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("jwks.json");
    std::fs::write(&keys, KEYS_FILE).unwrap();
    let keys = keys.display();
    let refused = |value: &str, part: &str| {
        let sources = environment(Sources::default(), "TARN_AUTH__JWT", value);
        let problems = check(&sources);
        let told = problems.iter().any(|p| p.key == "auth.jwt" && p.message.contains(part));
        assert!(told, "{part:?} in {problems:?}");
    };
    let of = |issuer: &str, rest: &str| format!("{{issuer = '{issuer}', audience = 'x', jwks_file = '{keys}'{rest}}}");
    refused("nonsense", "expected tables");
    refused("[{issuer = 'https://a'}]", "expected tables");
    refused(&format!("[{}]", of("a", ", leway = '3'")), "expected tables");
    refused(&format!("[{}, {}]", of("a", ""), of("b", ", name = 'b'")), "each needs a `name`");
    refused(&format!("[{}, {}]", of("a", ", name = 'b'"), of("b", ", name = 'b'")), "each needs a `name`");
    refused(&format!("[{}, {}]", of("a", ", name = 'a'"), of("a", ", name = 'b'")), "twice");
    refused(&format!("[{}]", of("a", ", name = 'a/b'")), "letters, digits");
    refused("[{issuer = 'a', audience = 'x', jwks_file = '/nowhere/jwks.json'}]", "cannot be read");
    refused("[]\n[auth]\njwt = 1", "expected tables");
}
