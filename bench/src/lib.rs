//! Load generator and benchmarks for Tenure.
