package terminal

import "syscall"

const getState, setState = syscall.TIOCGETA, syscall.TIOCSETA

const disabled = 0xff

// stopping are the control characters that stop or quit a program.
var stopping = []int{syscall.VSUSP, syscall.VDSUSP, syscall.VQUIT}

// maxLine is how many bytes of a line a terminal keeps. It drops what is behind them.
const maxLine = 1023
