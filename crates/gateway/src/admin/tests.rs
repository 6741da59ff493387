//! The admin API through its routes, on a database of its own and a clock that stands.

mod description;
mod loading;
mod money;
mod permissions;
mod problems;
mod records;
mod terms;
mod world;
