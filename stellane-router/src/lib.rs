//! A tower router that copies nothing, and a bounded string interner.
