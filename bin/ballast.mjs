#!/usr/bin/env node
import './ballast.cjs';
