pub mod case;
pub mod command;
pub mod compare;
pub mod crashes;
pub mod refusals;
