use std::io::Write as _;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Caskd {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(clap::Subcommand)]
enum Sub {
    Config,
}

fn args(words: &[&str]) -> ServerArgs {
    Caskd::try_parse_from(["caskd"].iter().chain(words)).unwrap().server
}

fn load_with(words: &[&str], env: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    load(&args(words), env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn texts(problems: Vec<Problem>) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn every_default_is_within_its_own_bounds() {
    let rendered = file(&render(&Settings::default()));
    let loaded = load_with(&["--config", rendered.path().to_str().unwrap()], &[]).unwrap();
    assert_eq!(loaded.settings.shown(), Settings::default().shown());
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = file("replicas = 3\nzone = \"a\"\nweight = 7\n");
    let path = file.path().to_str().unwrap();
    let env = [("CASKADE_ZONE", "b"), ("CASKADE_WEIGHT", "8"), ("CASKADE_CONFIG", path)];
    let settings = load_with(&["--weight", "9"], &env).unwrap().settings;
    assert_eq!((settings.replicas, settings.zone.as_str(), settings.weight), (3, "b", 9));
    let source = |key| settings.source(key).unwrap().to_string();
    assert_eq!(source("replicas"), format!("{path}:1 replicas"));
    assert_eq!(source("zone"), "CASKADE_ZONE");
    assert_eq!(source("weight"), "--weight");
    assert_eq!(source("sync"), "default");
}

#[test]
fn all_problems_are_reported_at_once_with_range_and_source() {
    let file = file("replicas = 9\nreplica = 2\nlease_ms = 1.5\n");
    let path = file.path().to_str().unwrap();
    let problems = texts(
        load_with(&["--config", path, "--sync", "sometimes"], &[("CASKADE_LISTEN", "here")]).unwrap_err(),
    );
    assert!(problems.contains(&format!("replicas: '9' must be 1 to 5 (copies) (from {path}:1 replicas)")));
    assert!(problems.contains("'replica' is not a setting; did you mean replicas?"));
    assert!(problems.contains("lease_ms: a float must be 300 to 60000 (milliseconds)"));
    assert!(problems.contains("sync: 'sometimes' must be always, interval:MS"));
    assert!(problems.contains("listen: 'here' must be IP:PORT"));
    assert!(problems.contains("(from CASKADE_LISTEN)"));
    assert_eq!(problems.lines().count(), 5);
}

#[test]
fn broken_toml_names_the_line() {
    let file = file("zone = \"a\"\nweight = = 1\n");
    let problems = texts(load_with(&["--config", file.path().to_str().unwrap()], &[]).unwrap_err());
    assert!(problems.contains("not valid TOML") && problems.contains(":2 "), "{problems}");
}

#[test]
fn missing_settings_file_is_a_problem() {
    let problems = texts(load_with(&["--config", "/nowhere/caskd.toml"], &[]).unwrap_err());
    assert!(problems.contains("cannot read the settings file /nowhere/caskd.toml"));
}

#[test]
fn open_port_without_a_secret_is_refused_unless_insecure() {
    let open = ["--listen", "0.0.0.0:7900", "--peer-listen", "10.0.0.1:7901"];
    let problems = texts(load_with(&open, &[]).unwrap_err());
    assert!(problems.contains("listen: 0.0.0.0:7900") && problems.contains("peer_listen: 10.0.0.1:7901"));
    assert!(problems.contains("--cluster-secret-file"));
    let insecure = [&open[..], &["--insecure"]].concat();
    assert!(load_with(&insecure, &[]).unwrap().warnings.iter().any(|line| line.contains("insecure")));
    let secret = [&open[..], &["--cluster-secret-file", "s"]].concat();
    assert!(load_with(&secret, &[]).is_ok());
}

#[test]
fn memcached_port_is_off_by_default_and_needs_a_secret_like_the_other_ports() {
    assert_eq!(load_with(&[], &[]).unwrap().settings.memcached_listen, None);
    assert_eq!(load_with(&["--memcached-listen", ""], &[]).unwrap().settings.memcached_listen, None);
    let loopback = load_with(&["--memcached-listen", "127.0.0.1:11211"], &[]).unwrap().settings;
    assert_eq!(loopback.memcached_listen.unwrap().port(), 11211);
    let problems = texts(load_with(&["--memcached-listen", "0.0.0.0:11211"], &[]).unwrap_err());
    assert!(problems.contains("memcached_listen: 0.0.0.0:11211 can be reached"), "{problems}");
    assert!(load_with(&["--memcached-listen", "here"], &[]).is_err());
}

#[test]
fn bootstrap_is_repeatable_and_comma_separated_in_every_source() {
    let want = ["a:7901", "[::1]:7902", "/ip4/10.0.0.1/tcp/7901"];
    let flags = load_with(&["--bootstrap", "a:7901,[::1]:7902", "--bootstrap", want[2]], &[]).unwrap();
    assert_eq!(flags.settings.bootstrap, want);
    let env = load_with(&[], &[("CASKADE_BOOTSTRAP", &want.join(","))]).unwrap();
    assert_eq!(env.settings.bootstrap, want);
    let list = file(&format!("bootstrap = {want:?}"));
    let from_file = load_with(&["--config", list.path().to_str().unwrap()], &[]).unwrap();
    assert_eq!(from_file.settings.bootstrap, want);
    for bad in ["a", "a:0", ":7901", "::1:7901", "/ip4/x"] {
        assert!(load_with(&["--bootstrap", bad], &[]).is_err(), "{bad}");
    }
}

#[test]
fn advertised_addresses_are_reachable_hosts_with_or_without_a_port() {
    let words = ["--advertise", "db1.example", "--advertise-clients", "[fd00::1]:17900"];
    let settings = load_with(&words, &[]).unwrap().settings;
    assert_eq!(settings.advertise.unwrap().to_string(), "db1.example");
    assert_eq!(settings.advertise_clients.unwrap().to_string(), "[fd00::1]:17900");
    assert_eq!(load_with(&["--advertise", ""], &[]).unwrap().settings.advertise, None);
    for bad in ["0.0.0.0", "[::]:7901", "db1:0", "10.0.0:1"] {
        let problems = texts(load_with(&["--advertise", bad], &[]).unwrap_err());
        assert!(problems.contains("must be HOST[:PORT] that others can reach"), "{problems}");
    }
}

#[test]
fn listening_on_all_addresses_without_an_advertised_one_warns() {
    let open = ["--listen", "0.0.0.0:7900", "--peer-listen", "[::]:7901", "--cluster-secret-file", "s"];
    let warnings = |more: &[&str]| load_with(&[&open[..], more].concat(), &[]).unwrap().warnings.join("\n");
    let both = warnings(&[]);
    assert!(both.contains("peer_listen is [::]:7901, and advertise is not set"), "{both}");
    assert!(both.contains("listen is 0.0.0.0:7900, and advertise_clients is not set"), "{both}");
    assert!(!warnings(&["--advertise-clients", "db1"]).contains("advertise_clients is not set"));
    assert_eq!(warnings(&["--advertise", "db1"]), "");
}

#[test]
fn sync_policies_read_back_as_written() {
    for text in ["always", "never", "interval:250"] {
        assert_eq!(load_with(&["--sync", text], &[]).unwrap().settings.sync.to_string(), text);
    }
    for bad in ["interval", "interval:0", "interval:60001", "interval:1s"] {
        assert!(load_with(&["--sync", bad], &[]).is_err(), "{bad}");
    }
}

#[test]
fn merge_settings_read_back_as_written() {
    let words = [
        "--merge-window",
        "22:00-04:30",
        "--index",
        "ordered",
        "--merge-bytes-per-s",
        "20M",
        "--map-files=false",
    ];
    let shown = render(&load_with(&words, &[]).unwrap().settings);
    for line in [
        "merge_window = \"22:00-04:30\"",
        "index = \"ordered\"",
        "merge_bytes_per_s = \"20M\"",
        "map_files = false",
    ] {
        assert!(shown.contains(line), "{line} is not in:\n{shown}");
    }
    let bad =
        ["--merge-window", "5-6", "--index", "btree", "--merge-trigger", "0", "--merge-small-file", "3G"];
    let problems = texts(load_with(&bad, &[]).unwrap_err());
    for problem in [
        "merge_window: '5-6' must be always, never",
        "index: 'btree' must be hash or ordered",
        "1 to 100 (percent)",
        "0 to 2G (bytes",
    ] {
        assert!(problems.contains(problem), "{problem} is not in:\n{problems}");
    }
    for window in ["03:00-03:00", "00:00-00:00", "24:00-01:00"] {
        assert!(load_with(&["--merge-window", window], &[]).is_err(), "{window}");
    }
}

#[test]
fn sizes_take_units_and_are_shown_with_them() {
    let settings =
        load_with(&["--migration-bytes-per-s", "4MiB", "--max-file-size", "64m"], &[]).unwrap().settings;
    assert_eq!((settings.migration_bytes_per_s, settings.max_file_size), (4 << 20, 64 << 20));
    assert!(render(&settings).contains("max_file_size = \"64M\""));
}

#[test]
fn marks_of_free_space_read_back_as_written() {
    let shown = render(&load_with(&["--disk-low", "5G", "--disk-minimum", "0"], &[]).unwrap().settings);
    assert!(shown.contains("disk_low = \"5G\"") && shown.contains("disk_minimum = \"0\""), "{shown}");
    let default = render(&Settings::default());
    assert!(
        default.contains("disk_low = \"auto\"") && default.contains("disk_minimum = \"auto\""),
        "{default}"
    );
    assert!(load_with(&["--disk-low", "most"], &[]).is_err());
    let warned = load_with(&["--disk-low", "1M", "--disk-minimum", "2M"], &[]).unwrap().warnings;
    assert!(warned.iter().any(|warning| warning.contains("below disk_minimum")), "{warned:?}");
}

#[test]
fn value_larger_than_a_data_file_is_refused() {
    let problems = texts(load_with(&["--max-file-size", "1M"], &[]).unwrap_err());
    assert!(problems.contains("must not exceed max_file_size") && problems.contains("--max-file-size"));
}

#[test]
fn sizes_that_the_store_or_the_peers_cannot_take_are_refused_with_the_true_bounds() {
    let problems = texts(load_with(&["--max-value-bytes", "65M", "--max-file-size", "3G"], &[]).unwrap_err());
    assert!(problems.contains("max_value_bytes: '65M' must be 1K to 64M"), "{problems}");
    assert!(problems.contains("max_file_size: '3G' must be 1M to 2G"), "{problems}");

    let settings = load_with(&["--max-value-bytes", "64M", "--max-file-size", "2G"], &[]).unwrap().settings;
    let mut store = caskade_engine::Options::new("store");
    store.max_file_size = settings.max_file_size;
    store.max_value_bytes = u32::try_from(settings.max_value_bytes).unwrap();
    assert_eq!(store.validate(), Ok(()));
    // A message carries a value together with its key (at most 65,535 bytes) and some fields.
    let value_bytes = usize::try_from(settings.max_value_bytes).unwrap();
    assert!(value_bytes + 128 * 1024 <= crate::net::wire::BODY_BYTES_MAX);
}

#[test]
fn front_ends_of_a_later_build_are_accepted_with_a_warning() {
    let loaded = load_with(&["--http-listen", "127.0.0.1:1"], &[]).unwrap();
    assert_eq!(loaded.settings.not_built_yet().len(), 1);
    assert!(loaded.warnings[0].contains("HTTP front end is not in this build"));
    assert!(Settings::default().not_built_yet().is_empty());
}

#[test]
fn unknown_variable_is_a_warning_with_the_nearest_name() {
    let loaded = load_with(&[], &[("CASKADE_REPLICA", "3"), ("CASKADE_ADDR", "x"), ("PATH", "y")]).unwrap();
    assert_eq!(
        loaded.warnings,
        ["variable CASKADE_REPLICA is not a setting and was ignored; did you mean CASKADE_REPLICAS?"]
    );
}

#[test]
fn flags_may_stand_behind_the_subcommand() {
    let parsed = Caskd::try_parse_from(["caskd", "config", "--weight", "5", "--insecure"]).unwrap();
    assert!(matches!(parsed.command, Some(Sub::Config)));
    let settings = load(&parsed.server, std::iter::empty()).unwrap().settings;
    assert_eq!((settings.weight, settings.insecure), (5, true));
}

#[test]
fn log_filters_that_would_silence_everything_are_refused() {
    assert!(load_with(&["--log-level", "infos"], &[]).is_err());
    assert!(load_with(&["--log-level", "info,caskade_node=debug"], &[]).is_ok());
}

#[test]
fn rendered_settings_name_the_source_of_each_value() {
    let settings = load_with(&["--weight", "5"], &[("CASKADE_ZONE", "z")]).unwrap().settings;
    let text = render(&settings);
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("weight = 5").ends_with("# --weight"));
    assert!(line("zone = \"z\"").ends_with("# CASKADE_ZONE"));
    assert!(line("# advertise is not set").ends_with("# default"));
    let json = render_json(&settings);
    assert_eq!(json["weight"], serde_json::json!({ "value": 5, "source": "--weight" }));
    assert!(json["advertise"]["value"].is_null());
}
