//! Models from files to logits: descriptions, weights and the forward pass, on the naive backend.

mod edit;
mod gguf_files;
mod golden;
mod hostile;
#[path = "../common/naive_backend.rs"]
mod naive_backend;
mod reference;
mod rope;
