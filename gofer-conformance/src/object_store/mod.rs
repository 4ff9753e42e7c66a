//! What every object store does.

pub mod list;
pub mod put;
pub mod read;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::error::{BackendError, ErrorKind};
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{ByteStream, ObjectBody, ObjectStore, PutOptions};

use super::Harness;

/// The store under test.
pub type StoreHarness = dyn Harness<dyn ObjectStore>;

/// Emits one test per case of the object store's contract; see [the crate](crate).
#[macro_export]
macro_rules! object_store_conformance {
    ($($factory:tt)+) => {
        $crate::__conformance_tests! { [$($factory)+] object_store
            put {
                check_says_what_was_found_in_one_line
                put_returns_what_is_known_of_the_object
                put_replaces_what_was_there
                put_if_absent_refuses_a_taken_key_and_changes_nothing
                of_concurrent_puts_if_absent_one_wins
                put_whose_stream_fails_changes_nothing
                put_if_absent_whose_stream_fails_leaves_the_key_free
                put_in_progress_is_invisible_and_dropping_it_changes_nothing
                concurrent_puts_of_one_key_leave_one_of_them_whole
                concurrent_puts_of_many_keys_do_not_mix
                an_object_is_durable
            }
            read {
                get_gives_the_same_bytes
                an_object_larger_than_the_memory_bound_survives
                missing_object_is_not_found
                head_agrees_with_get
                readers_see_the_whole_old_or_the_whole_new_object
                a_read_goes_on_while_the_object_is_replaced_and_deleted
                delete_is_idempotent
                deleting_one_key_keeps_its_neighbours
                presign_gives_a_url_or_none
            }
            list {
                every_legal_key_works
                a_key_may_extend_another
                list_is_in_key_order
                list_prefix_is_any_text
                list_pages_join_without_gap_or_repeat
                list_after_a_key_that_does_not_exist
                list_of_nothing_is_empty
            }
        }
    };
}

/// A valid key.
fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a valid key")
}

/// A body in these pieces.
fn body<I>(pieces: I) -> ByteStream
where
    I: IntoIterator<Item = Bytes>,
    I::IntoIter: Send + 'static,
{
    stream::iter(pieces.into_iter().map(Ok)).boxed()
}

/// A body in one piece.
fn text(content: &str) -> ByteStream {
    body([Bytes::copy_from_slice(content.as_bytes())])
}

/// A body that gives one piece, then fails.
fn failing(content: &str) -> ByteStream {
    let error = BackendError::new(ErrorKind::Denied, "the sender hung up");
    stream::iter([Ok(Bytes::copy_from_slice(content.as_bytes())), Err(error)]).boxed()
}

/// Puts a short text.
async fn put(store: &dyn ObjectStore, name: &str, content: &str) {
    let meta = store.put(&key(name), text(content), PutOptions::default()).await.expect("put");
    assert_eq!(meta.size_bytes, content.len() as u64, "size of `{name}`");
}

/// All bytes of an object being read.
async fn read(object: ObjectBody) -> Bytes {
    let size = object.meta.size_bytes;
    let read: BytesMut = object
        .stream
        .try_fold(BytesMut::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
        .expect("the object's bytes");
    assert_eq!(read.len() as u64, size, "the stream's length and `size_bytes` differ");
    read.freeze()
}

/// All bytes under a key.
async fn content(store: &dyn ObjectStore, name: &str) -> Bytes {
    read(store.get(&key(name)).await.expect("get")).await
}

/// Asserts that nothing is under the key.
async fn assert_missing(store: &dyn ObjectStore, name: &str) {
    assert_eq!(
        store.get(&key(name)).await.expect_err("get finds it").kind,
        ErrorKind::NotFound,
        "get of `{name}`"
    );
    assert_eq!(
        store.head(&key(name)).await.expect_err("head finds it").kind,
        ErrorKind::NotFound,
        "head of `{name}`"
    );
}

/// Bytes that are easy to tell apart and hard to get right by luck.
fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed;
    let mut bytes = BytesMut::with_capacity(length + 8);
    while bytes.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes.freeze()
}
