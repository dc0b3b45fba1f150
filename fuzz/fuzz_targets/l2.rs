#![no_main]

holstein_fuzz::target!(l2);
