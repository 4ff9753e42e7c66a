//! What every secret store does.

pub mod list;
pub mod value;

use gofer_core::error::ErrorKind;
use gofer_core::id::SecretPath;
use gofer_core::object_store::PutOptions;
use gofer_core::secret_store::SecretStore;
use secrecy::{ExposeSecret, SecretString};

use super::Harness;

/// The store under test.
pub type SecretHarness = dyn Harness<dyn SecretStore>;

/// Emits one test per case of the secret store's contract; see [the crate](crate).
#[macro_export]
macro_rules! secret_store_conformance {
    ($($factory:tt)+) => {
        $crate::__conformance_tests! { [$($factory)+] secret_store
            value {
                check_says_what_was_found_in_one_line
                any_text_survives_unchanged
                too_long_a_value_is_refused
                put_replaces_what_was_there
                put_if_absent_refuses_a_taken_path_and_changes_nothing
                of_concurrent_puts_if_absent_one_wins
                concurrent_puts_leave_one_of_them_whole
                missing_secret_is_not_found
                delete_is_idempotent
                no_value_appears_in_debug_or_errors
                a_secret_is_durable
            }
            list {
                every_legal_path_works
                a_path_may_extend_another
                list_is_in_order
                list_prefix_is_any_text
                list_pages_join_without_gap_or_repeat
                list_of_nothing_is_empty
            }
        }
    };
}

/// A valid path.
fn path(text: &str) -> SecretPath {
    SecretPath::new(text).expect("a valid path")
}

/// Puts a value.
async fn put(store: &dyn SecretStore, name: &str, value: &str) {
    store.put(&path(name), &SecretString::from(value), PutOptions::default()).await.expect("put");
}

/// The value under a path.
async fn value(store: &dyn SecretStore, name: &str) -> String {
    store.get(&path(name)).await.expect("get").expose_secret().to_owned()
}

/// Asserts that nothing is under the path.
async fn assert_missing(store: &dyn SecretStore, name: &str) {
    assert_eq!(
        store.get(&path(name)).await.expect_err("it is found").kind,
        ErrorKind::NotFound,
        "get of `{name}`"
    );
}
