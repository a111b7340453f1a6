#!/bin/sh
# Fetch onnxruntime's C header from the npm registry into DIR: sh tools/onnxruntime_header.sh DIR
# No wheel holds it. For tests/test_digit_c.py: ONNXRUNTIME_INCLUDE=DIR. An API version up to the library's will do.
set -eu
package=com.github.asus4.onnxruntime@0.4.9 # MIT, onnxruntime's own headers
headers="package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers"
mkdir -p "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent --ignore-scripts "$package" >/dev/null && tar xzf ./*.tgz "$headers")
cp "$work/$headers"/*.h "$1"
