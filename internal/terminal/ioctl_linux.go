package terminal

import "syscall"

const getState, setState = syscall.TCGETS, syscall.TCSETS

const disabled = 0

// stopping are the control characters that stop or quit a program.
var stopping = []int{syscall.VSUSP, syscall.VQUIT}

// maxLine is how many bytes of a line a terminal keeps. It drops what is behind them.
const maxLine = 4095
