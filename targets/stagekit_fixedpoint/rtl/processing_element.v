// One processing element: multiply-accumulate from a bias, then requantise to a stored integer.
//
// The arithmetic of stagekit_fixedpoint/arithmetic.py, parameterised like a device description:
//   ROUNDING    0 floor, 1 toward zero, 2 half up, 3 half away, 4 half even
//   DOUBLE      1: TFLite's double rounding (SRDHM, then ROUNDING by the rest of the shift)
//   OUT_WRAP    1: the output keeps its low bits, 0: it saturates
//   ACC_GUARD   bits above ACC_BITS that the running sum has; with guard bits the finished sum saturates
//               to ACC_BITS, without them it wraps.
// A pulse on `load` sets the sum to `bias`; each `step` adds x * w; `y` follows the sum combinationally.
`timescale 1ns / 1ps

module processing_element #(
    parameter ACT_BITS  = 8,
    parameter W_BITS    = 8,
    parameter ACC_BITS  = 32,
    parameter ACC_GUARD = 0,
    parameter OUT_BITS  = 8,
    parameter OUT_WRAP  = 0,
    parameter ROUNDING  = 2,
    parameter DOUBLE    = 0
) (
    input                              clk,
    input                              load,
    input                              step,
    input  signed [ACC_BITS-1:0]       bias,
    input  signed [ACT_BITS:0]         x,           // less its zero point: one bit more
    input  signed [W_BITS-1:0]         w,
    input  signed [31:0]               multiplier,
    input  signed [7:0]                shift,       // to the right; negative ones to the left
    input  signed [OUT_BITS:0]         zero_point,
    input  signed [OUT_BITS-1:0]       low,
    input  signed [OUT_BITS-1:0]       high,
    output signed [OUT_BITS-1:0]       y
);
    localparam SUM  = ACC_BITS + ACC_GUARD;
    localparam WIDE = 96;

    reg signed [SUM-1:0] sum;
    always @(posedge clk)
        if (load) sum <= bias;
        else if (step) sum <= sum + x * w;

    localparam signed [WIDE-1:0] ACC_HIGH = (96'sd1 <<< (ACC_BITS - 1)) - 1;
    localparam signed [WIDE-1:0] ACC_LOW  = -(96'sd1 <<< (ACC_BITS - 1));
    localparam signed [WIDE-1:0] OUT_HIGH = (96'sd1 <<< (OUT_BITS - 1)) - 1;
    localparam signed [WIDE-1:0] OUT_LOW  = -(96'sd1 <<< (OUT_BITS - 1));
    localparam signed [WIDE-1:0] INT_HIGH = 96'sd2147483647;

    function signed [WIDE-1:0] clamped(
        input signed [WIDE-1:0] v, input signed [WIDE-1:0] least, input signed [WIDE-1:0] most
    );
        clamped = (v < least) ? least : (v > most) ? most : v;
    endfunction

    function signed [WIDE-1:0] shifted(input signed [WIDE-1:0] v, input signed [7:0] amount);
        reg signed [WIDE-1:0] half, quotient, rest;
        begin
            half = (amount > 0) ? (96'sd1 <<< (amount - 1)) : 96'sd0;
            quotient = v >>> amount;
            rest = v - (quotient <<< amount);
            if (amount <= 0) shifted = v <<< (-amount);
            else case (ROUNDING)
                0: shifted = quotient;
                1: shifted = (v < 0) ? -((-v) >>> amount) : quotient;
                2: shifted = (v + half) >>> amount;
                3: shifted = (v < 0) ? -((half - v) >>> amount) : ((v + half) >>> amount);
                default: shifted = (rest > half || (rest == half && quotient[0])) ? quotient + 1 : quotient;
            endcase
        end
    endfunction

    wire signed [WIDE-1:0] whole = sum;
    wire signed [WIDE-1:0] accumulated = (ACC_GUARD > 0) ? clamped(whole, ACC_LOW, ACC_HIGH) : whole;

    // TFLite: exponent = 31 - shift; a positive one shifts to the left before the product.
    wire signed [8:0] exponent = 9'sd31 - shift;
    wire signed [7:0] left  = (exponent > 0) ? exponent : 8'sd0;
    wire signed [7:0] right = (exponent < 0) ? -exponent : 8'sd0;
    wire signed [WIDE-1:0] high_product = ((accumulated <<< left) * multiplier + (96'sd1 <<< 30)) >>> 31;
    wire signed [WIDE-1:0] rescaled = (DOUBLE != 0)
        ? shifted(clamped(high_product, ~INT_HIGH, INT_HIGH), right)
        : shifted(accumulated * multiplier, shift);

    wire signed [WIDE-1:0] offset = rescaled + zero_point;
    wire signed [OUT_BITS-1:0] low_bits = offset[OUT_BITS-1:0];
    wire signed [WIDE-1:0] kept = low_bits;
    wire signed [WIDE-1:0] fitted = (OUT_WRAP != 0) ? kept : clamped(offset, OUT_LOW, OUT_HIGH);
    assign y = clamped(fitted, low, high);
endmodule
