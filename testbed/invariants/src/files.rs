//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold nothing written by hand.
const NOT_OURS: [&str; 6] = [".git", "target", "node_modules", "__pycache__", ".gofer", ".venv"];

/// A text file of the repository.
#[derive(Debug)]
pub struct SourceFile {
    /// Below the repository, with `/` between its parts.
    pub path: String,
    /// The whole content.
    pub text: String,
}

impl SourceFile {
    /// Its ending, without the dot.
    #[must_use]
    pub fn extension(&self) -> &str {
        Path::new(&self.path)
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default()
    }

    /// Whether a program wrote it.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.path.starts_with("gofer-proto/src/gen/")
            || self.path.ends_with(".lock")
            || self.path.ends_with("package-lock.json")
            || self.path.ends_with("go.sum")
            || ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py", ".pb.go"]
                .iter()
                .any(|ending| self.path.ends_with(ending))
    }
}

/// The repository's root.
///
/// # Panics
/// Never in a whole clone.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("two levels down").to_path_buf()
}

/// Every file that is text, in order of its path.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn source_files() -> Vec<SourceFile> {
    let root = repository();
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "only {} files below {}", found.len(), root.display());
    found
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !NOT_OURS.contains(&name) && !path.is_symlink() {
                collect(root, &path, found);
            }
            continue;
        }
        // A temporary file may have been removed since, and a binary file has no lines.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let relative = path.strip_prefix(root).expect("it is below the root");
        found.push(SourceFile { path: relative.to_string_lossy().replace('\\', "/"), text });
    }
}
