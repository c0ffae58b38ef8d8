package terminal

import "syscall"

const getState, setState = syscall.TIOCGETA, syscall.TIOCSETA

// maxLine is how many bytes of a line a terminal keeps. It drops what is behind them.
const maxLine = 1023
