//! The source tree as the tidiness rules see it.

use std::path::{Path, PathBuf};

/// The root of the workspace.
///
/// # Panics
/// Never: this package has a parent directory.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace").to_owned()
}

/// One file: its path from the root, and its text.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// From the root of the workspace, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// Every file below `folder` (from the root) with this extension, in the order of their paths. Build
/// output and hidden folders are passed over.
#[must_use]
pub fn files(folder: &str, extension: &str) -> Vec<SourceFile> {
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(folder: &Path, extension: &str, found: &mut Vec<SourceFile>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, extension, found);
            }
        } else if path.extension().is_some_and(|it| it == extension)
            // A file may go away while others work in the tree.
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().into_owned();
            found.push(SourceFile { path, text });
        }
    }
}
