//! Texts that people and files bring: the manifest, the configuration, and words on the command line.
//!
//! Whatever is accepted and written again reads the same; nothing panics.

use std::path::Path;

use tenure::log::Manifest;
use tenure_server::cli::words;
use tenure_server::duration;
use tenure_server::serve::config;

/// A manifest: the text as it is, and with the checksum that it should have.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("MANIFEST");
    let signed = format!("{text}# crc32c {:08x}\n", crc_fast::crc32_iscsi(text.as_bytes()));
    for text in [text, &signed] {
        if let Ok(manifest) = Manifest::decode(path, text) {
            let again = Manifest::decode(path, &manifest.encode());
            assert_eq!(again.ok().as_ref(), Some(&manifest), "written and read again");
        }
    }
}

/// A configuration file: what it adds up to, printed as `--print-config` prints it, adds up to the same.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // That setting names a file to be read, which is no business of a fuzzer.
    if text.contains("auth") || text.contains('\\') {
        return;
    }
    let Ok((config, effective)) = config::read(text) else { return };
    let printed = effective.to_string();
    let (again, _) = config::read(&printed).unwrap_or_else(|error| panic!("{error}\nin {printed}"));
    assert_eq!(format!("{again:?}"), format!("{config:?}"), "printed and read again");
}

/// Words on the command line: spans of time, TTLs, lease IDs, places to watch from.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(span) = duration::parse(text) {
        assert_eq!(duration::parse(&duration::format(span)), Ok(span), "{text}");
        assert_eq!(
            duration::parse_with(text, Some("s")).ok(),
            Some(span),
            "a unit stands for itself: {text}"
        );
    }
    let _ = duration::parse_with(text, Some("ms"));
    if let Some(ttl_ms) = words::ttl_ms(text) {
        assert_eq!(words::ttl_ms(&format!("{ttl_ms}ms")), Some(ttl_ms), "{text}");
    }
    if let Some(id) = words::lease_id(text) {
        assert_ne!(id, 0, "{text}");
        assert_eq!(words::lease_id(&format!("{id:016x}")), Some(id), "{text}");
    }
    if let Some(places) = words::places(text).filter(|places| !places.is_empty()) {
        assert_eq!(words::places(&places).as_ref(), Some(&places), "{text}");
    }
}
