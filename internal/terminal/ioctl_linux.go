package terminal

import "syscall"

const getState, setState = syscall.TCGETS, syscall.TCSETS
