//! The target against a scripted fake.
