//! Migrations end to end, against a small simulated cluster: Raft groups with terms, lag, joint configurations and
//! quorums; hosts that crash, lose orders and come back; controllers that die at any point.
//!
//! `scripts` tells single stories (golden files in `testscripts/migration`), `each_state` kills everybody in every state of
//! every procedure, `interleavings` draws stories at random, `corruption` shows that the checks they rest on can fail,
//! `observations` what the procedure does not believe. `audit` judges what one state cannot show: it runs after every step.

mod audit;
mod cluster;
mod controller;
mod corruption;
mod each_state;
mod group;
mod interleavings;
mod merges;
mod observations;
mod scripts;
mod splits;
