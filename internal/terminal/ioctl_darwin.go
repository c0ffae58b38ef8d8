package terminal

import "syscall"

const getState, setState = syscall.TIOCGETA, syscall.TIOCSETA
