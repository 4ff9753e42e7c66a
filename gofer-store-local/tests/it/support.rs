//! Shared by the tests: a store in a temporary directory, bodies, and child processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::object_store::{ByteStream, ObjectStore, PutOptions};
use gofer_core::{BackendError, ObjectKey};
use gofer_store_local::{LocalObjectStore, LocalStoreConfig};

pub(crate) const IF_ABSENT: PutOptions = PutOptions { if_absent: true };
pub(crate) const REPLACE: PutOptions = PutOptions { if_absent: false };

pub(crate) async fn open(dir: &Path) -> LocalObjectStore {
    LocalObjectStore::connect(LocalStoreConfig::new(dir)).await.unwrap()
}

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

pub(crate) fn body(bytes: impl Into<Bytes>) -> ByteStream {
    stream::iter([Ok(bytes.into())]).boxed()
}

/// `chunks` times a megabyte of `byte`.
pub(crate) fn megabytes(byte: u8, chunks: usize) -> ByteStream {
    let chunk = Bytes::from(vec![byte; 1 << 20]);
    stream::iter((0..chunks).map(move |_| Ok(chunk.clone()))).boxed()
}

pub(crate) async fn put(store: &LocalObjectStore, name: &str, bytes: &[u8]) {
    store.put(&key(name), body(bytes.to_vec()), REPLACE).await.unwrap();
}

pub(crate) async fn collect(stream: ByteStream) -> Result<Vec<u8>, BackendError> {
    stream
        .try_fold(Vec::new(), |mut all, bytes| async move {
            all.extend_from_slice(&bytes);
            Ok(all)
        })
        .await
}

pub(crate) async fn read(store: &LocalObjectStore, name: &str) -> Vec<u8> {
    collect(store.get(&key(name)).await.unwrap().stream).await.unwrap()
}

/// Staging files of every process, locks left out.
pub(crate) fn staged_files(dir: &Path) -> Vec<PathBuf> {
    let children = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut files: Vec<PathBuf> =
        children(&dir.join("staging")).iter().flat_map(|dir| children(dir)).collect();
    files.retain(|path| !path.ends_with("lock"));
    files
}

/// This test binary, run again as one of the roles in `child.rs`.
pub(crate) fn child_command(program: &str, first_args: &[&str], role: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(first_args)
        .args(["child::role", "--exact", "--nocapture", "--test-threads=1"])
        .env("GOFER_TEST_ROLE", role)
        .env("GOFER_TEST_DIR", dir)
        .stdout(Stdio::piped());
    command
}

/// A child process that says how far it is, one line each.
pub(crate) struct Talking {
    pub(crate) child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Talking {
    pub(crate) fn start(role: &str, dir: &Path) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = child_command(program.to_str().unwrap(), &[], role, dir).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads until a line that contains `word`, and gives what follows the word.
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
            seen.push(line);
        }
        panic!("the child ended without saying `{word}`; it said {seen:?}");
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
