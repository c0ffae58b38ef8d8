package ephemeral

import (
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

// pin keeps a process and what it will start on one processor. On a virtual machine, a server that
// starts a process for each connection on whatever processor is free costs nearly twice as much as
// one that stays on its own, and tests make many connections. The servers of one test process
// share a processor, and test processes that run at once take different ones as long as there
// are. Outside of tests it does nothing, so that measurements and the demo are not affected. It
// is best effort: without it everything works.
func pin(pid int, bin string) {
	if !testing.Testing() {
		return
	}
	processor.once.Do(func() { processor.mask = takeProcessor(bin) })
	if processor.mask != nil {
		_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(pid), unsafe.Sizeof(*processor.mask), uintptr(unsafe.Pointer(processor.mask)))
	}
}

// processor is the one that this process has taken.
var processor struct {
	once sync.Once
	mask *affinity // nil for none
}

type affinity [16]uint64

// takeProcessor returns the first processor that no other test process has taken. The lock on a
// file of the server's binaries stands for it; the system releases it when this process ends.
func takeProcessor(bin string) *affinity {
	var allowed affinity
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(allowed), uintptr(unsafe.Pointer(&allowed)))
	files, err := filepath.Glob(filepath.Join(bin, "*"))
	if errno != 0 || err != nil {
		return nil
	}
	for n := 0; n < len(allowed)*64 && len(files) > 0; n++ {
		if allowed[n/64]&(1<<(n%64)) == 0 {
			continue
		}
		file, err := syscall.Open(files[0], syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		files = files[1:]
		if err != nil {
			continue
		}
		if syscall.Flock(file, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			_ = syscall.Close(file)
			continue
		}
		mask := &affinity{}
		mask[n/64] = 1 << (n % 64)
		return mask
	}
	return nil
}
