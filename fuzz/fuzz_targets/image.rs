#![no_main]

holstein_fuzz::target!(image);
