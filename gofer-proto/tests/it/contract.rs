//! Reads and compiles the .proto files as they are now.

use std::path::{Path, PathBuf};

use protox::Compiler;

/// The compiled contract, comments included.
pub(crate) fn compile() -> Compiler {
    let root = proto_root();
    let folder = root.join("gofer/v1");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot read `{}`: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();

    files.sort();
    assert!(!files.is_empty(), "no .proto file in `{}`", folder.display());

    let mut compiler = Compiler::new([root]).expect("the proto folder exists");
    compiler.include_source_info(true).include_imports(true);
    compiler
        .open_files(files)
        .unwrap_or_else(|error| panic!("the contract does not compile: {error:?}"));

    compiler
}

fn proto_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the workspace")
        .join("proto")
}
