//! The registry on top of tenants in memory: who may change what, and what becomes of it.

mod audit;
mod deed;
mod first;
mod keys;
mod matrix;
mod model;
mod racing;
mod records;
mod repetition;
mod rules;
mod world;
