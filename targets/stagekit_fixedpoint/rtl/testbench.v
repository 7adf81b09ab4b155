// Runs vectors from the file given as +vectors=FILE through one processing element and counts differences.
//
// Each vector is a line: terms bias multiplier shift zero_point low high expected, then `terms` pairs x w.
`timescale 1ns / 1ps

module testbench;
    parameter ACT_BITS  = 8;
    parameter W_BITS    = 8;
    parameter ACC_BITS  = 32;
    parameter ACC_GUARD = 0;
    parameter OUT_BITS  = 8;
    parameter OUT_WRAP  = 0;
    parameter ROUNDING  = 2;
    parameter DOUBLE    = 0;

    reg clk = 0, load = 0, step = 0;
    reg signed [63:0] bias, multiplier, shift, zero_point, low, high, x, w, expected;
    wire signed [OUT_BITS-1:0] y;

    processing_element #(
        .ACT_BITS(ACT_BITS), .W_BITS(W_BITS), .ACC_BITS(ACC_BITS), .ACC_GUARD(ACC_GUARD),
        .OUT_BITS(OUT_BITS), .OUT_WRAP(OUT_WRAP), .ROUNDING(ROUNDING), .DOUBLE(DOUBLE)
    ) element (
        .clk(clk), .load(load), .step(step), .bias(bias[ACC_BITS-1:0]), .x(x[ACT_BITS:0]), .w(w[W_BITS-1:0]),
        .multiplier(multiplier[31:0]), .shift(shift[7:0]), .zero_point(zero_point[OUT_BITS:0]),
        .low(low[OUT_BITS-1:0]), .high(high[OUT_BITS-1:0]), .y(y)
    );

    integer file, fields, terms, index, count = 0, wrong = 0;
    reg [1023:0] path;

    task tick;
        begin
            #1 clk = 1;
            #1 clk = 0;
        end
    endtask

    initial begin
        if (!$value$plusargs("vectors=%s", path)) $finish;
        file = $fopen(path, "r");
        fields = $fscanf(file, "%d %d %d %d %d %d %d %d", terms, bias, multiplier, shift, zero_point, low, high, expected);
        while (fields == 8) begin
            load = 1; tick; load = 0; step = 1;
            for (index = 0; index < terms; index = index + 1) begin
                fields = $fscanf(file, "%d %d", x, w);
                tick;
            end
            step = 0;
            #1 count = count + 1;
            if (y !== expected[OUT_BITS-1:0]) begin
                wrong = wrong + 1;
                if (wrong < 10) $display("vector %0d: expected %0d, found %0d", count, expected, y);
            end
            fields = $fscanf(file, "%d %d %d %d %d %d %d %d", terms, bias, multiplier, shift, zero_point, low, high, expected);
        end
        $display("vectors %0d wrong %0d", count, wrong);
        $finish;
    end
endmodule
