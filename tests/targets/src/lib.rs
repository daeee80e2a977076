//! Programs with a known truth, for the end-to-end tests
