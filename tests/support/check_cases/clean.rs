//! Images that nothing is wrong with, of every kind.

use super::image::Image;

/// Data, zeros and compressed clusters in several places.
fn fill(image: &Image, commands: &[&str]) {
    image.io(&["write 0 300k", "write -z 320k 64k", "write 2M 10k", "write -z -u 2M 4k", "write 700k 1"]);
    image.io(commands);
}

const COMPRESSED: &[&str] = &["write -c 1M 128k", "write -c 3M 64k"];

/// Name, options, size and further commands of qemu-io.
type Recipe = (&'static str, &'static str, &'static str, &'static [&'static str]);

const RECIPES: &[Recipe] = &[
    ("cluster-512", "cluster_size=512", "4M", COMPRESSED),
    ("cluster-1k", "cluster_size=1k", "4M", COMPRESSED),
    ("cluster-2k", "cluster_size=2k", "4M", COMPRESSED),
    ("cluster-4k", "cluster_size=4k", "4M", COMPRESSED),
    ("cluster-8k", "cluster_size=8k", "4M", COMPRESSED),
    ("cluster-16k", "cluster_size=16k", "4M", COMPRESSED),
    ("cluster-32k", "cluster_size=32k", "4M", COMPRESSED),
    ("cluster-64k", "cluster_size=64k", "4M", COMPRESSED),
    ("cluster-128k", "cluster_size=128k", "4M", &["write -c 1M 128k"]),
    ("cluster-256k", "cluster_size=256k", "4M", &["write -c 1M 256k"]),
    ("cluster-512k", "cluster_size=512k", "4M", &["write -c 1M 512k"]),
    ("cluster-1M", "cluster_size=1M", "8M", &["write -c 4M 1M"]),
    ("cluster-2M", "cluster_size=2M", "16M", &["write -c 8M 2M", "write -c 10M 2M"]),
    ("refcount-1", "refcount_bits=1", "4M", &[]),
    ("refcount-2", "refcount_bits=2", "4M", &["write -c 1M 64k"]),
    ("refcount-4", "refcount_bits=4", "4M", COMPRESSED),
    ("refcount-8", "refcount_bits=8", "4M", COMPRESSED),
    ("refcount-32", "refcount_bits=32", "4M", COMPRESSED),
    ("refcount-64", "refcount_bits=64", "4M", COMPRESSED),
    ("refcount-64-cluster-512", "refcount_bits=64,cluster_size=512", "4M", COMPRESSED),
    ("refcount-1-cluster-512", "refcount_bits=1,cluster_size=512", "4M", &[]),
    ("zstd", "compression_type=zstd", "4M", COMPRESSED),
    ("zstd-2M", "compression_type=zstd,cluster_size=2M", "16M", &["write -c 8M 2M", "write -c 10M 2M"]),
    ("extended-l2", "extended_l2=on", "4M", COMPRESSED),
    ("extended-l2-16k", "extended_l2=on,cluster_size=16k", "4M", COMPRESSED),
    ("extended-l2-2M", "extended_l2=on,cluster_size=2M", "16M", &["write 4M 3k", "write -z 5M 64k"]),
    ("data-file", "data_file=disk.data", "4M", &[]),
    ("data-file-raw", "data_file=disk.data,data_file_raw=on", "4M", &[]),
    ("data-file-extended-l2", "data_file=disk.data,extended_l2=on", "4M", &["discard 0 64k"]),
    ("lazy", "lazy_refcounts=on", "4M", COMPRESSED),
    ("preallocated", "preallocation=metadata", "64M", &[]),
    ("preallocated-512", "preallocation=metadata,cluster_size=512", "4M", &[]),
    ("preallocated-full", "preallocation=falloc", "4M", &[]),
    ("odd-size", "cluster_size=64k", "4194816", COMPRESSED),
    ("many-tables", "cluster_size=64k", "1T", &["write 600G 64k", "write 1000G 200k", "write 10G 1M"]),
    ("fragmented", "cluster_size=4k", "4M", &["write 3M 4k", "write 3076k 4k", "write 3072k 40k"]),
    ("holes", "cluster_size=64k", "4M", &["discard 64k 128k", "write -z 0 64k"]),
];

/// All clean images.
pub fn images() -> Vec<Image> {
    let mut images: Vec<_> = RECIPES
        .iter()
        .map(|(name, options, size, commands)| {
            let image = Image::create(name, options, size);
            fill(&image, commands);
            image
        })
        .collect();
    images.push(Image::create("empty", "cluster_size=64k", "4M"));
    images.push(Image::create("nothing", "cluster_size=64k", "0"));

    for (name, options) in [
        ("snapshots", "cluster_size=64k"),
        ("snapshots-512", "cluster_size=512"),
        ("snapshots-refcount-8", "refcount_bits=8"),
        ("snapshots-refcount-64", "refcount_bits=64"),
        ("snapshots-extended-l2", "extended_l2=on"),
    ] {
        let image = Image::create(name, options, "4M");
        fill(&image, COMPRESSED);
        for tag in ["one", "two", "three"] {
            image.tool("qemu-img", &["snapshot", "-c", tag, "disk.qcow2"]);
            image.io(&["write 64k 64k", "write 3900k 10k", "write -z 2M 1k"]);
        }
        image.tool("qemu-img", &["snapshot", "-d", "two", "disk.qcow2"]);
        images.push(image);
    }

    // More references than a byte can count.
    let image = Image::create("many-snapshots", "cluster_size=512", "64k");
    image.io(&["write 0 3k", "write -c 10k 2k"]);
    let tags: Vec<_> = (0..260).map(|tag| tag.to_string()).collect();
    tags.iter().for_each(|tag| image.tool("qemu-img", &["snapshot", "-c", tag, "disk.qcow2"]));
    images.push(image);

    let version_2 = Image::create("version-2", "compat=0.10", "4M");
    version_2.io(&["write 0 300k", "write -c 1M 64k"]);
    version_2.tool("qemu-img", &["snapshot", "-c", "one", "disk.qcow2"]);
    version_2.io(&["write 0 64k"]);
    images.push(version_2);

    for (name, options) in [("bitmaps", "cluster_size=64k"), ("bitmaps-512", "cluster_size=512")] {
        let image = Image::create(name, options, "4M");
        image.tool("qemu-img", &["bitmap", "--add", "disk.qcow2", "first"]);
        image.tool("qemu-img", &["bitmap", "--add", "-g", "512", "disk.qcow2", "second"]);
        fill(&image, COMPRESSED);
        image.tool("qemu-img", &["bitmap", "--add", "--disable", "disk.qcow2", "third"]);
        image.tool("qemu-img", &["snapshot", "-c", "one", "disk.qcow2"]);
        images.push(image);
    }
    images
}
