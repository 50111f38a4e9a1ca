//! The examples do what they say.

#[path = "../examples/embed_threads.rs"]
mod embed_threads;
#[path = "../examples/embed_tokio.rs"]
mod embed_tokio;

#[test]
fn an_engine_without_an_async_runtime() {
    embed_threads::main().expect("the example runs");
}

#[test]
fn an_engine_under_tokio() {
    embed_tokio::main().expect("the example runs");
}
