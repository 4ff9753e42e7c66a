//! The bodies of the fuzz targets on random input; `fuzz/` runs them with a fuzzer.

use proptest::prelude::*;

#[path = "../../../fuzz/bodies/templates.rs"]
mod templates;

proptest! {
    #[test]
    fn any_text_is_a_template(text in "((global_|)secret|run_object|pipeline_object|[a-z \
                                       \n]|\\{\\{|\\}\\}|\\PC){0,40}") {
        templates::run(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_a_template(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        templates::run(&bytes);
    }
}
