//! The stores, through their ports.

mod accounts;
mod bank;
mod databases;
mod journal;
mod ledger;
mod seats;
mod tenants;
mod verify;
mod workers;
mod world;
