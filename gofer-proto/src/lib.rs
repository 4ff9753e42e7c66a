//! Code generated from proto/ (committed; a test fails on drift).
