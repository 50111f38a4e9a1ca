//! Cross-crate tests of Tenure.
