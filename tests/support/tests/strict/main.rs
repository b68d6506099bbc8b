//! The controller judged by others: curl, openssl, and a plain rustls client that knows nothing of it.

mod client;
mod enroll;
mod extend;
mod faults;
mod login;
mod no_one_time_token;
mod third_party;
mod trust;
