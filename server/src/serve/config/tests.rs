//! Layering, refusals and the printed form, as tables.

use clap::{CommandFactory, FromArgMatches, Parser};

use super::*;

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

fn load_with(flags: &[&str], file: Option<&str>) -> Result<(ServeConfig, Effective), ConfigError> {
    let matches = Flags::command().try_get_matches_from(flags).unwrap();
    let settings = Flags::from_arg_matches(&matches).unwrap().settings;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenure.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    load(settings, &matches, file.map(|_| path.as_path()))
}

fn line<'e>(printed: &'e str, key: &str) -> &'e str {
    printed.lines().find(|line| line.starts_with(key) || line.starts_with(&format!("# {key}"))).unwrap()
}

#[test]
fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
    let file = "durability = \"none\"\nttl-min = \"5s\"\nlisten = [\"[::1]:9\", \"127.0.0.1:9\"]\n";
    let (config, effective) = load_with(&["--durability", "interval:50"], Some(file)).unwrap();
    assert_eq!(config.engine.durability, Durability::Interval(Duration::from_millis(50)));
    assert_eq!(config.engine.ttl_min, Duration::from_secs(5));
    assert_eq!(config.listen, ["[::1]:9", "127.0.0.1:9"]);
    assert_eq!(config.limits, Limits::DEFAULT);
    let printed = effective.to_string();
    assert!(line(&printed, "durability").ends_with("# flag"), "{printed}");
    assert!(line(&printed, "durability").starts_with("durability = \"interval:50\""), "{printed}");
    assert!(line(&printed, "ttl-min").contains("tenure.toml"), "{printed}");
    assert!(line(&printed, "window").ends_with("# default"), "{printed}");
    assert!(line(&printed, "data-dir").starts_with("# data-dir is not set"), "{printed}");
}

#[test]
fn the_printed_form_is_a_file_that_gives_the_same() {
    let flags = ["--shards", "3", "--ttl-max", "1h", "--idle-timeout", "off", "--no-pin", "--window", "12"];
    let (_, effective) = load_with(&flags, None).unwrap();
    let printed = effective.to_string();
    let (again, effective_again) = load_with(&[], Some(&printed)).unwrap();
    assert_eq!(again.engine.shard_count, Some(3));
    assert_eq!(again.idle_timeout, None);
    assert!(!again.engine.pin);
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.rsplit_once("  #").unwrap().0.trim_end().to_owned()).collect()
    };
    assert_eq!(values(&printed), values(&effective_again.to_string()));
}

#[test]
fn mistakes_are_refused_by_name() {
    for (file, named) in [
        ("durabilty = \"always\"", "durabilty"),
        ("durability = \"sometimes\"", "interval:MS"),
        ("window = \"many\"", "window"),
        ("ttl-min = \"soon\"", "250ms"),
        ("window = 0", "window"),
        ("frame-max = 100", "frame-max"),
        ("frame-max = 1000000000", "frame-max"),
        ("send-max = 100", "send-max"),
        ("max-connections = 0", "max-connections"),
        ("listen = []", "listen"),
        ("auth-token-file = \"/nowhere/secret\"", "/nowhere/secret"),
        ("handshake-timeout = \"0s\"", "handshake-timeout"),
    ] {
        let error = load_with(&[], Some(file)).unwrap_err().to_string();
        assert!(error.contains(named), "{file}: {error}");
    }
}

#[test]
fn smaller_frames_mean_smaller_batches() {
    let (config, _) = load_with(&["--frame-max", "131072"], None).unwrap();
    assert!(config.limits.are_consistent(), "{:?}", config.limits);
    assert!(config.limits.batch_ids_max > 16_000 && config.limits.batch_ids_max < 16_384);
    assert_eq!(config.limits.item_bytes_max, Limits::DEFAULT.item_bytes_max);
}

#[test]
fn a_secret_is_read_without_its_line_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "open sesame\n").unwrap();
    let (config, _) = load_with(&["--auth-token-file", path.to_str().unwrap()], None).unwrap();
    assert_eq!(config.auth, b"open sesame");
    std::fs::write(&path, "\n").unwrap();
    assert!(load_with(&["--auth-token-file", path.to_str().unwrap()], None).is_err());
}
