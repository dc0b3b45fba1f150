#![no_main]

holstein_fuzz::target!(header);
