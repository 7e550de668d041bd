// A static program in another language.
extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

fn main() {
    use std::os::fd::AsRawFd;
    let iommu = std::fs::OpenOptions::new().read(true).write(true).open("/dev/iommu").expect("/dev/iommu");
    let mut alloc = [12u32, 0, 0];
    assert_eq!(unsafe { ioctl(iommu.as_raw_fd(), 0x3b81, alloc.as_mut_ptr()) }, 0);
    assert!(alloc[2] > 0);
    println!("rust is done");
}
