#!/bin/sh
# usage: find_tool.sh g++|clang-format|clang-tidy
# Prints the command to call, the plain name or a versioned one, that is new enough; nothing where there is none.
tool=$1
case $tool in
  g++) oldest=12 names="g++ g++-15 g++-14 g++-13 g++-12" ;;
  *) oldest=16 names="$tool-16 $tool $tool-17 $tool-18 $tool-19 $tool-20 $tool-21" ;;
esac

major_version() {
  case $tool in
    g++) "$1" -dumpversion ;;
    *) "$1" --version ;;
  esac 2>/dev/null | sed -n 's/^[^0-9]*\([0-9][0-9]*\).*/\1/p' | head -n 1
}

for name in $names; do
  found=$(major_version "$name")
  if [ "${found:-0}" -ge "$oldest" ]; then
    echo "$name"
    exit 0
  fi
done
