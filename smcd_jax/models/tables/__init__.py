"""Published names and sizes of the networks that models share: conversion tables, and configs from tensor shapes."""
