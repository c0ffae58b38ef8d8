package terminal

import "syscall"

const getState, setState = syscall.TCGETS, syscall.TCSETS

// maxLine is how many bytes of a line a terminal keeps. It drops what is behind them.
const maxLine = 4095
