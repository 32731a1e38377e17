//! The target against a scripted fake that speaks awsJson 1.1 and checks the limits of AWS.

mod cases;
mod center;
