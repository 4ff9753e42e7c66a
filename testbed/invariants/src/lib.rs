#![doc = include_str!("../README.md")]

mod cargo;
mod files;

pub use cargo::{Dependency, Package, members, tree};
pub use files::{SourceFile, repository, source_files};
