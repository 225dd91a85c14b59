//! The backend for CUDA devices (being written).
