#![no_main]

holstein_fuzz::target!(bitmap_directory);
