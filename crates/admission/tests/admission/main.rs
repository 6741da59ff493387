//! Admission on top of the memory quota: budgets hold, permits end, rows are written.

mod bearers;
mod budgets;
mod permits;
mod world;
