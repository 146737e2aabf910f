"""Operations on tensors, one idea a module. An op is named after what it does and works on paper first.

torch is imported when an op begins, so that planning and inspecting need none.
"""
