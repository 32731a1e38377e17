//! Operations on a simulated disk and a model target.

mod basics;
mod crashes;
mod damage;
mod random;
mod scripted;
