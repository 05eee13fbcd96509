//! The HTTP contract and the processes' promises, held from outside: the real `memori up`, a socket, and a client that knows only
//! what is written down. Every answer is checked for the shape of errors and against the served OpenAPI document.
#![allow(missing_docs, reason = "a test binary")]

mod dead_letters;
mod entities;
mod errors;
mod events;
mod hostile;
mod http;
mod processes;
mod recall;
mod system;
mod tenants;
