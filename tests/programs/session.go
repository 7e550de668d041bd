// A program that makes its system calls itself, without libc, from as many threads as it has goroutines: sessions of
// /dev/liveupdate with a memfd each. Static: CGO_ENABLED=0 go build.
package main

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

const (
	memfdCreate   = 319
	createSession = 0xba00
	preserveFd    = 0xba40
	getName       = 0xba43
	goroutines    = 16
	rounds        = 20
)

type session struct {
	size uint32
	fd   int32 // reserved in GET_NAME
	name [64]byte
}

type preserve struct {
	size  uint32
	fd    int32
	token uint64
}

func ioctl(fd int, cmd uintptr, arg unsafe.Pointer) syscall.Errno {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), cmd, uintptr(arg))
	return errno
}

func memory() (int, syscall.Errno) {
	name := [...]byte{'g', 'o', 0}
	fd, _, errno := syscall.Syscall(memfdCreate, uintptr(unsafe.Pointer(&name)), 1, 0)
	return int(fd), errno
}

func life(device int, me int) string {
	for i := 0; i < rounds; i++ {
		mine := session{size: uint32(unsafe.Sizeof(session{})), fd: -1}
		name := "go-" + strconv.Itoa(me)
		copy(mine.name[:], name)
		if e := ioctl(device, createSession, unsafe.Pointer(&mine)); e != 0 {
			return "create: " + e.Error()
		}
		if e := ioctl(device, createSession, unsafe.Pointer(&session{size: mine.size, name: mine.name})); e != syscall.EEXIST {
			return "create twice: " + e.Error()
		}
		file, e := memory()
		if e != 0 {
			return "memfd_create: " + e.Error()
		}
		keep := preserve{size: uint32(unsafe.Sizeof(preserve{})), fd: int32(file), token: uint64(me)}
		if e := ioctl(int(mine.fd), preserveFd, unsafe.Pointer(&keep)); e != 0 {
			return "preserve: " + e.Error()
		}
		told := session{size: mine.size}
		if e := ioctl(int(mine.fd), getName, unsafe.Pointer(&told)); e != 0 || told.name != mine.name {
			return "get name: " + e.Error()
		}
		syscall.Close(file)
		syscall.Close(int(mine.fd))
	}
	return ""
}

func main() {
	device, err := syscall.Open("/dev/liveupdate", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		os.Stderr.WriteString("/dev/liveupdate: " + err.Error() + "\n")
		os.Exit(1)
	}
	if _, err := syscall.Open("/dev/liveupdate", syscall.O_RDWR, 0); err != syscall.EBUSY {
		os.Stderr.WriteString("/dev/liveupdate can be opened twice\n")
		os.Exit(1)
	}
	ends := make(chan string)
	for i := 0; i < goroutines; i++ {
		go func(me int) { ends <- life(device, me) }(i)
	}
	for i := 0; i < goroutines; i++ {
		if why := <-ends; why != "" {
			os.Stderr.WriteString(why + "\n")
			os.Exit(1)
		}
	}
	os.Stdout.WriteString("go: all sessions came and went\n")
}
