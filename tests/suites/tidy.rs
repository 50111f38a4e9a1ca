//! The rules of the house that a machine can check: sizes, headers, leftovers, boundaries, links.
//!
//! Each rule is a table of what it forbids where; a breach prints file, line and rule. A rule that
//! found no file to look at fails, so that a moved folder cannot switch it off.

use std::collections::BTreeSet;

use tenure_tests::tree::{self, SourceFile};

/// The wall: beyond this a file has become two.
const FILE_LINES_MAX: usize = 600;

/// The packages, from the root.
const PACKAGES: [&str; 7] =
    ["protocol", "engine/core", "engine/runtime", "client", "server", "bench", "tests"];

fn sources(folder: &str) -> Vec<SourceFile> {
    let files = tree::files(folder, "rs");
    assert!(!files.is_empty(), "no source files in {folder}: has it moved?");
    files
}

/// Panics with all breaches at once.
fn none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

/// Lines of code, numbered from 1: comments and doc comments are left out, they may name what they like.
fn code_lines(file: &SourceFile) -> impl Iterator<Item = (usize, &str)> {
    file.text.lines().enumerate().map(|(index, line)| (index + 1, line)).map(|(number, line)| {
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        (number, code)
    })
}

#[test]
fn no_file_is_longer_than_the_wall() {
    let mut breaches = Vec::new();
    for file in PACKAGES.iter().flat_map(|package| sources(package)) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            breaches.push(format!("{}: {lines} lines", file.path));
        }
    }
    none("a file has at most 600 lines", &breaches);
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    let mut breaches = Vec::new();
    for file in PACKAGES.iter().flat_map(|package| sources(package)) {
        let first = file.text.lines().next().unwrap_or("");
        if !first.starts_with("//! ") {
            breaches.push(file.path);
        }
    }
    none("a file opens with `//! `", &breaches);
}

#[test]
fn nothing_is_left_undone() {
    // In pieces, so that this file does not breach its own rule.
    let leftovers =
        ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!")).into_iter().chain(["FIXME".into()]);
    let leftovers: Vec<String> = leftovers.collect();
    let mut breaches = Vec::new();
    for file in PACKAGES.iter().flat_map(|package| sources(package)) {
        for (index, line) in file.text.lines().enumerate() {
            for leftover in leftovers.iter().filter(|leftover| line.contains(leftover.as_str())) {
                if !file.path.ends_with("suites/tidy.rs") {
                    breaches.push(format!("{}:{}: {leftover}", file.path, index + 1));
                }
            }
        }
    }
    none("no leftovers", &breaches);
}

#[test]
fn no_merge_is_left_unfinished() {
    // In pieces, so that this file does not breach its own rule.
    let marks = ["<".repeat(7) + " ", ">".repeat(7) + " "];
    let mut breaches = Vec::new();
    for extension in ["rs", "md", "toml", "sh", "txt"] {
        for file in tree::files("", extension) {
            for (index, line) in file.text.lines().enumerate() {
                if marks.iter().any(|mark| line.starts_with(mark.as_str())) {
                    breaches.push(format!("{}:{}", file.path, index + 1));
                }
            }
        }
    }
    none("no mark of an unfinished merge", &breaches);
}

#[test]
fn no_module_is_named_after_nothing() {
    let nothing = ["util", "utils", "common", "types", "helpers", "misc", "mod"];
    let mut breaches = Vec::new();
    for file in PACKAGES.iter().flat_map(|package| sources(package)) {
        let name = file.path.rsplit('/').next().unwrap_or("").trim_end_matches(".rs");
        if nothing.contains(&name) {
            breaches.push(file.path);
        }
    }
    none("a file is named after what it holds", &breaches);
}

/// What the sources of a folder must not name.
struct Boundary {
    folder: &'static str,
    forbidden: &'static [&'static str],
    because: &'static str,
}

const WORLD: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::net",
    "std::thread",
    "std::io::stdin",
    "tokio",
    "glommio",
    "io_uring",
];

const BOUNDARIES: &[Boundary] = &[
    Boundary {
        folder: "engine/core/src",
        forbidden: WORLD,
        because: "a shard knows no clock, file, socket, thread or async",
    },
    Boundary {
        folder: "protocol/src",
        forbidden: WORLD,
        because: "the codec knows no clock, file, socket, thread or async",
    },
    Boundary {
        folder: "client/src/machine",
        forbidden: WORLD,
        because: "the client's logic is driven by simulators, too",
    },
    Boundary {
        folder: "engine/core/src",
        forbidden: &["tenure_protocol"],
        because: "core and protocol do not know each other",
    },
    Boundary {
        folder: "protocol/src",
        forbidden: &["tenure_core", "tenure::"],
        because: "core and protocol do not know each other",
    },
    Boundary {
        folder: "engine/runtime/src",
        forbidden: &["tenure_protocol", "tenure_server"],
        because: "the server's session translates",
    },
    Boundary {
        folder: "client",
        forbidden: &["glommio", "io_uring", "tenure_core", "tenure::"],
        because: "a client knows the protocol only",
    },
    Boundary { folder: "bench", forbidden: &["glommio::"], because: "only runtime and server name glommio" },
    Boundary {
        folder: "tests",
        forbidden: &["glommio::", "io_uring::"],
        because: "only runtime and server name the drivers",
    },
];

#[test]
fn the_walls_between_crates_stand() {
    let mut breaches = Vec::new();
    for boundary in BOUNDARIES {
        for file in sources(boundary.folder).iter().filter(|file| !file.path.ends_with("suites/tidy.rs")) {
            for (number, code) in code_lines(file) {
                for name in boundary.forbidden.iter().filter(|name| code.contains(**name)) {
                    breaches.push(format!("{}:{number}: `{name}`: {}", file.path, boundary.because));
                }
            }
        }
    }
    none("a crate names only what its place allows", &breaches);
}

/// Ways to ask for the time of day.
const WALL_CLOCKS: &[&str] =
    &["SystemTime", "UNIX_EPOCH", "ClockId::Realtime", "CLOCK_REALTIME", "gettimeofday", "chrono::"];

/// The one place that reads it: the note for people in the lock file.
const WALL_CLOCK_FOR_PEOPLE: &str = "engine/runtime/src/log/lock.rs";

/// S6: when the host's clock is set, nothing may notice. Setting it would harm the machine that runs the tests, and no
/// namespace covers it; that nobody asks for it is as good a proof, and covers every path.
#[test]
fn s6_nobody_who_decides_reads_the_wall_clock() {
    let (mut breaches, mut found_for_people) = (Vec::new(), false);
    for folder in ["protocol/src", "engine/core/src", "engine/runtime/src", "client/src", "server/src"] {
        for file in sources(folder) {
            for (number, code) in code_lines(&file) {
                for name in WALL_CLOCKS.iter().filter(|name| code.contains(**name)) {
                    if file.path.ends_with(WALL_CLOCK_FOR_PEOPLE) {
                        found_for_people = true;
                    } else {
                        breaches.push(format!("{}:{number}: `{name}`", file.path));
                    }
                }
            }
        }
    }
    assert!(found_for_people, "the rule no longer sees what it looks for");
    none("wall clock decides nothing", &breaches);
}

#[test]
fn both_copies_of_the_id_rule_follow_its_vectors() {
    let path = tree::root().join("tests/vectors/id-rule.txt");
    let text = std::fs::read_to_string(&path).expect("the vectors are there");
    let mut count = 0;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("hex");
        let (id, mixed) = (hex(fields[0]), hex(fields[1]));
        assert_eq!((tenure_core::mix(id), tenure_protocol::mix(id)), (mixed, mixed), "mix of {id:016x}");
        let positive = id & !(1 << 63);
        assert_eq!((tenure_core::unmix(mixed), tenure_protocol::unmix(mixed)), (positive, positive));
        for (shard_count, shard) in [1u16, 2, 3, 16, 256].into_iter().zip(&fields[2..]) {
            let shard: u16 = shard.parse().expect("a shard");
            let core = tenure_core::shard_of(tenure_core::LeaseId(id), shard_count).0;
            let wire = tenure_protocol::shard_of(tenure_protocol::LeaseId(id), shard_count);
            assert_eq!((core, wire), (shard, shard), "S1 one-shard: {id:016x} among {shard_count}");
        }
        count += 1;
    }
    assert!(count >= 20, "only {count} vectors");
}

#[test]
fn refusals_have_the_same_numbers_in_the_engine_and_on_the_wire() {
    use tenure_core::Refusal as Core;
    let engine = [
        Core::NotFound,
        Core::AlreadyExists,
        Core::TtlZero,
        Core::TtlTooLarge,
        Core::LimitExceeded,
        Core::Busy,
        Core::NotPrimary,
        Core::ItemNotFound,
        Core::ItemTooLarge,
        Core::IdReserved,
        Core::NotThisShard,
    ];
    for refusal in engine {
        let wire = tenure_protocol::Refusal::from_code(refusal as u16).expect("the wire has the number");
        assert_eq!(wire.name(), format!("{refusal:?}"));
    }
}

/// The targets of the inline links of a Markdown text, with the lines they are on. Code blocks are
/// passed over.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let mut rest = if in_code { "" } else { line };
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, behind)) = after.split_once(')') else { break };
            found.push((index + 1, target.to_owned()));
            rest = behind;
        }
    }
    found
}

/// The anchors that a Markdown text offers: its headings as GitHub writes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let title = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = tree::files("", "md");
    assert!(documents.iter().any(|file| file.path.starts_with("docs/")), "no documents: have they moved?");
    let mut breaches = Vec::new();
    for document in &documents {
        for (number, target) in links(&document.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let here = tree::root().join(&document.path);
            let aim = if path.is_empty() { here.clone() } else { here.with_file_name("").join(path) };
            if !aim.exists() {
                breaches.push(format!("{}:{number}: {target} does not exist", document.path));
                continue;
            }
            let aim_text = std::fs::read_to_string(&aim).unwrap_or_default();
            if !anchor.is_empty()
                && path.is_empty() | path.ends_with(".md")
                && !anchors(&aim_text).contains(anchor)
            {
                breaches.push(format!("{}:{number}: {target} has no such heading", document.path));
            }
        }
    }
    none("a link leads to a file and a heading", &breaches);
}

/// A merge that keeps both sides can leave a chapter twice.
#[test]
fn no_document_says_a_chapter_twice() {
    let mut breaches = Vec::new();
    for document in tree::files("", "md") {
        let mut seen = BTreeSet::new();
        for chapter in document.text.lines().filter(|line| line.starts_with("## ")) {
            // The pages that are generated have a section for each run, and two runs may be of the same kind.
            if !seen.insert(chapter) && !chapter.starts_with("## Run: ") {
                breaches.push(format!("{}: {chapter}", document.path));
            }
        }
    }
    none("a document has each chapter once", &breaches);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = std::fs::read_to_string(tree::root().join("Cargo.toml")).expect("the manifest");
    let reasons = std::fs::read_to_string(tree::root().join("docs/decisions/0001-dependencies.md"));
    let reasons = reasons.expect("the decision about dependencies");
    let section = manifest.split("[workspace.dependencies]").nth(1).expect("the section");
    let section = section.split("\n[").next().unwrap_or("");
    let names = section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    let names: Vec<&str> = names.filter(|name| !name.starts_with("tenure")).collect();
    assert!(names.len() > 5, "the list of dependencies was not found");
    let missing = names.into_iter().filter(|name| !reasons.contains(&format!("`{name}`")));
    none("docs/decisions/0001 gives a reason for", &missing.map(str::to_owned).collect::<Vec<_>>());
}

/// How often a file's code says `unsafe`, comments and texts left out.
fn unsafe_count(file: &SourceFile) -> usize {
    let uses = |code: &str| {
        let outside_texts: String = code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
        let words = outside_texts.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.filter(|word| *word == UNSAFE).count()
    };
    let attributes = |code: &str| code.trim_start().starts_with("#!") || code.trim_start().starts_with("#[");
    code_lines(file).filter(|(_, code)| !attributes(code)).map(|(_, code)| uses(code)).sum()
}

/// In pieces, so that this file is not counted.
const UNSAFE: &str = concat!("un", "safe");

#[test]
fn every_unsafe_block_is_listed() {
    let document = std::fs::read_to_string(tree::root().join("docs/unsafe.md")).expect("the list");
    let mut listed = std::collections::BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let files = cells[0].split('`').skip(1).step_by(2);
        let counts = cells[1].split(", ").map(|count| count.parse::<usize>().expect("a count"));
        listed.extend(files.map(str::to_owned).zip(counts));
    }
    let mut breaches = Vec::new();
    for file in PACKAGES.iter().flat_map(|package| sources(package)) {
        let (count, told) = (unsafe_count(&file), listed.remove(&file.path).unwrap_or(0));
        if count != told {
            breaches.push(format!("{}: {count} uses, docs/unsafe.md says {told}", file.path));
        }
    }
    breaches.extend(listed.into_keys().map(|path| format!("{path}: listed, but not there")));
    none("docs/unsafe.md lists every use of it", &breaches);
}

#[test]
fn the_rules_see_what_they_forbid() {
    let bad = SourceFile { path: "x.rs".into(), text: "let now = Instant::now(); // not std::fs\n".into() };
    let seen: Vec<_> =
        code_lines(&bad).filter(|(_, code)| WORLD.iter().any(|name| code.contains(name))).collect();
    assert_eq!(seen, [(1, "let now = Instant::now(); ")]);
    assert_eq!(
        links("see [a](b.md#c) and [d](e)\n```\n[x](y)\n```"),
        [(1, "b.md#c".into()), (1, "e".into())]
    );
    let text =
        format!("#![forbid({UNSAFE}_code)]\n{UNSAFE} fn f() {{}} // {UNSAFE}\nlet s = \"{UNSAFE}\";\n");
    assert_eq!(unsafe_count(&SourceFile { path: "x.rs".into(), text }), 1);
    assert!(anchors("## The ID rule (1)").contains("the-id-rule-1"));
}
