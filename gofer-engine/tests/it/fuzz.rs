//! The bodies of the fuzz targets on random input; `fuzz/` runs them with a fuzzer.

use proptest::prelude::*;

#[path = "../../../fuzz/bodies/masker.rs"]
mod masker;

proptest! {
    #[test]
    fn any_pieces_of_a_log_are_masked_as_the_whole(
        secrets in prop::array::uniform2("[abé%\"' \n]{0,12}"),
        size in any::<u8>(),
        log in "([abé%\"' \n\\\\/+=]|YWJh|eyJ|%20){0,60}",
    ) {
        let lengths = secrets.iter().map(|secret| u8::try_from(secret.len()).unwrap());
        let data: Vec<u8> = lengths.chain([size]).chain(secrets.concat().into_bytes()).chain(log.into_bytes()).collect();
        masker::run(&data);
    }

    #[test]
    fn any_bytes_are_a_log(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        masker::run(&bytes);
    }
}
